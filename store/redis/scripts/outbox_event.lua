-- Returns an event with its payload, if it is in this place. ARGV: its id.
return describe(ARGV[2], 'payload')
