"""What all stages share in a notebook: magic options, panels with three faces, handles, tables and charts."""
