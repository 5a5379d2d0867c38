"""The heart: how a verification begins, is proved and ends, and the one result that it sends."""
