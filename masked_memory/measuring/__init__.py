"""What is measured, written as tables and drawn as figures."""
