"""Reading what servers send, whoever they are: JSON, event streams, errors, retry hints, rate limits. Pure."""
