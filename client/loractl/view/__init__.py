"""How answers are shown: tables, progress, a plan, a status, JSON. Requests are made elsewhere."""
