"""Operations on boxes, masks, polygons and semantic masks: arrays in, arrays out."""
