"""The world outside: message channels and Flow. Gateways send; they decide nothing and store nothing."""
