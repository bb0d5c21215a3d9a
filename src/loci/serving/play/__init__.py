"""A page on which people drive world models, watch policies, and look at what memory is."""
