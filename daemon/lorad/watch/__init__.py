"""Which files there are: walking the folders that are looked after. What is in them is not known here."""
