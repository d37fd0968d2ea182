from data_split import *
