"""Where the processes of trials run: what machines there are, and what of them each process gets."""
