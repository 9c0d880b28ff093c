"""What an exported folder carries as it is: the modeling file and the chat template."""
