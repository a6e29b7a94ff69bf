"""The paper's tables and figures, measured again: ``secondlook reproduce``."""
