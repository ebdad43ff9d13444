"""The graph of deployments, the HTTP ingress, and the API's request and response types."""
