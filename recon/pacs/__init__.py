"""Images on to a PACS: a spool on disk, C-STORE or STOW-RS, and the PACS's own word that it keeps them."""
