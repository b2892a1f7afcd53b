"""SASRec and BERT4Rec: small transformers over events instead of text."""
