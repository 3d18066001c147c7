"""A second corpus: what the operations of web services do, from the manuals botocore ships."""
