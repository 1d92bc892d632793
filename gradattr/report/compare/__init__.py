"""Two committed runs side by side."""
