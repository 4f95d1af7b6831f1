"""Floor 3: one pure step. Instance, arrivals, code and time in; one commit and what to do after it out."""
