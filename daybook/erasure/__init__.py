"""Erasing a holder: the fact, what it leaves behind on servers and disks, and proving that it is gone."""
