-- Makes dead letters pending again. ARGV: their ids.
for i = 2, #ARGV do
	local app = revive(ARGV[i])
	if app then
		order_backlog(app)
		order_graves(app)
	end
end
