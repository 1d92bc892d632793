"""Other rules of back-propagation: DeepLIFT, DeepSHAP, relevance."""
