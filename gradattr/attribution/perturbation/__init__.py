"""Methods that only ask for answers, of inputs with parts replaced."""
