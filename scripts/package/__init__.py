"""`make package`: what is shipped, built and tried where nothing else is installed."""
