"""Write a model of random weights for llama-server: `python random_gguf.py tiny.gguf`; it wants numpy and gguf.

It writes word salad as fast as half a megabyte of weights allows: made for protocol, schemas and queues, never quality.
"""

import sys

WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 32_768
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = [chr(code) for code in range(33, 127)] + ["▁"]  # without them it would write hardly any words


def main(path: str) -> None:
    import numpy as np
    from gguf import GGUFWriter, TokenType

    dice = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)

    tokens = ["<unk>", *CONTROL, *BYTES, *LETTERS]
    types = [TokenType.UNKNOWN, *[TokenType.CONTROL] * len(CONTROL), *[TokenType.BYTE] * len(BYTES)]
    types += [TokenType.NORMAL] * len(LETTERS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_vocab_size(len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)

    def weights(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (dice.standard_normal(shape) * 0.08).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    weights("token_embd", len(tokens), WIDTH)
    ones("output_norm")
    weights("output", len(tokens), WIDTH)
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        ones(f"{block}.attn_norm")
        ones(f"{block}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(f"{block}.{part}", WIDTH, WIDTH)
        weights(f"{block}.ffn_gate", HIDDEN, WIDTH)
        weights(f"{block}.ffn_up", HIDDEN, WIDTH)
        weights(f"{block}.ffn_down", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
