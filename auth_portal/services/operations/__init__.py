"""What operators run and watch: installing, keys, health, retention."""
