from masking import *
