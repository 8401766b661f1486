"""What a server will give a number of users, on one machine or several, and what a token costs: computed from a short measurement."""
