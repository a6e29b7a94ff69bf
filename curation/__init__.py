"""What a person does with labelled images: audits and decisions about them, what to label next, a map."""
