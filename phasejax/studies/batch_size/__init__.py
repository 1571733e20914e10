"""Does T_c / T_0 depend on the batch size, and where does the learning rate take the temperature's place?"""
