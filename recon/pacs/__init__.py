"""Delivery of images to a PACS: a spool on disk, C-STORE or STOW-RS, and the PACS's confirmation of storage."""
