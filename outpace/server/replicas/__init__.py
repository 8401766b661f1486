"""Several servers behind one address: which one gets a request, and what happens when it is lost."""
