"""Web service for object detection."""
