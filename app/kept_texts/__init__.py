"""Kept texts: what the tasks of a tenant that wants it were asked, as candidates for labels."""
