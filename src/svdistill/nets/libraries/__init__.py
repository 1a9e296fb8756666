"""Networks of other libraries and of the user's own code, imported only when one is named."""
