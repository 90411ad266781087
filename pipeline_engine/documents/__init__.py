"""What a user brings: finding files, reading them as text, cutting text into chunks. The only room with readers."""

from pipeline_engine.documents.chunking import Chunk, chunk_text
from pipeline_engine.documents.fencing import fenced
from pipeline_engine.documents.finding import SUPPORTED, find_documents
from pipeline_engine.documents.reading import MAX_BYTES, read_document

__all__ = ["MAX_BYTES", "SUPPORTED", "Chunk", "chunk_text", "fenced", "find_documents", "read_document"]
