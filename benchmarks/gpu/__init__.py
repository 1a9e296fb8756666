"""One command for a scarce GPU: four parts in turn, each within its share of the time, each leaving its figures."""
