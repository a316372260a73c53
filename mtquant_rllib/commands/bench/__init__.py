"""`mtquant bench`: the commands and their options."""
