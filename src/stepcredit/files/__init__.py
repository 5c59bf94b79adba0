"""Files: model folders, pictures and videos, text that is whole or not there, Markdown tables."""
