"""What a person does with labelled images: finding wrong labels and duplicates, and what to label next."""
