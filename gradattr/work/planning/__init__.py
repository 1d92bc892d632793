"""From a manifest to a plan: what is looked at, checked and estimated before anything is done."""
