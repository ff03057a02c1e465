"""Services with real servers beside them: each test skips where its server is missing. ``make operate`` runs them."""
