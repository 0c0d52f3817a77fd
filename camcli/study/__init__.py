"""What only people can judge: a blinded page of questions, and the statistics of their answers."""
