"""Is the boundary in temperature a transition that sharpens with the size of the network, or a crossover?"""
