"""Pages for users, and the programs that write the tables in them."""
