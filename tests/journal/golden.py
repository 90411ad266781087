"""A sample of each key, and what it has always been."""

from pipeline_engine.journal.keys import digest_of, request_key, step_key

SAMPLE = {
    "b": [1, -0.0, 1.0, 1e16, 1e-7, 0.1, 123456789.123456789, 2**64, True, None],
    "a": {"é": "naïve ✓ 😀", "": '\x00\x1f\x7f"\\/', "lone": "\ud83d|\ude00", "pair": "\ud83d\ude00"},
}
REQUEST = {
    "model": "0f",
    "asked": [["user", "Give it a title.", {"image": "ab", "type": "image/png"}]],
    "schema": b'{"type":"object"}',
    "schema_name": "Title",
}
STEP = {
    "made_by": ["prompt", "ab"],
    "schema": b'{"type":"object"}',
    "models": ["0f", "1e"],
    "inputs": {"title": "aa", "keywords": "bb"},
}
GOLDEN = {
    "sample": "2a9a536c4dd084cfe3fbd8efee738136",
    "request": "be542cbae19a0e773142aead64e88609",
    "step": "ee365a49948c38795e738cc4a7c0d51f",
}


def keys():
    return {"sample": digest_of(SAMPLE), "request": request_key(**REQUEST), "step": step_key(**STEP)}
