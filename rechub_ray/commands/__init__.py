"""What commands do that is only for the command line: the demo, files to start from, lists."""
