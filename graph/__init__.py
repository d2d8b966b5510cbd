"""GraphQL in, GraphQL out: one noun a file; execution.py runs documents; http.py, sse.py, websocket.py carry them."""
