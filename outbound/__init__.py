"""Outbound AI phone agent: rings people through a carrier and talks with them over ConversationRelay."""
