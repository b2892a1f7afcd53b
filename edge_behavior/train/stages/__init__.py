"""The work of every stage, and what it is made of: trainers, scoring passes, the choice of preference pairs."""
