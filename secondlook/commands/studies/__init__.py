"""The commands of ``secondlook study``, by what they measure."""
