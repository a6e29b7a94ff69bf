"""How much memory and how many machines a cache takes, from what `secondlook bench` measured."""
