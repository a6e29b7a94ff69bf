"""Where keys are searched: FAISS, PyTorch, a Milvus server, an exact reference; added keys merged with any."""
