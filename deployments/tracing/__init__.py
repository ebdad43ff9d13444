"""OpenTelemetry spans of one request from the Gateway to the variant; nothing at all while nobody wants them."""
