"""How much of a picture must a memory keep so that the rest can be completed?"""
